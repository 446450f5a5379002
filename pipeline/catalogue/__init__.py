"""What can be chosen from: backbones and slide encoders, with their sources and licences."""
