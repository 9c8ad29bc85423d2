"""Engines: what computes tokens, behind one protocol."""
