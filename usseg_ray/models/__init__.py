"""Trained models as folders: written, described, found, opened, without their run and data."""
