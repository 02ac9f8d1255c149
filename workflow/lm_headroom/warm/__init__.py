"""Warm processes: imports and a loaded model that the jobs of a study share."""
