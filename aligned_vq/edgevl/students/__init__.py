"""Student image encoders: ViT, Swin and the deformable attention transformer."""
