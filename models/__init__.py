"""What computes: backbones, the MoMKD network with its memory and losses, the model bundle."""
