"""Broken submission folders, built by code from one good folder: one defect each."""
