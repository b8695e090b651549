"""Tests of `syncclip.reproduction`."""
