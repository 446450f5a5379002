"""What a paper needs of a trained model beside its figures: cohort flow, table 1, operating points, methods, files."""
