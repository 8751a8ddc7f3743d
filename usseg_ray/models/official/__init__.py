"""Checkpoints that the official code of a method wrote, made models here."""
