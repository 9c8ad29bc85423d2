"""Older names for what stands elsewhere now."""
