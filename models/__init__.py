"""Models: backbones, slide networks, their tasks, training and evaluation, and the model bundle."""
