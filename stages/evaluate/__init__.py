"""evaluate: applies a trained model to the patients of another cohort."""
