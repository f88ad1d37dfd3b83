"""Geometry: where windows stand, and the slices, tiles and matrices that follow from it."""
