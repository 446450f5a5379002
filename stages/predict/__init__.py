"""predict: applies a trained model to new slides."""
