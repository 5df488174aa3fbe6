"""Latent diffusion without torch."""
