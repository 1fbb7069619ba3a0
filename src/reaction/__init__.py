"""Reproduces the papers of video action recognition and detection, from raw videos to the papers' tables."""
