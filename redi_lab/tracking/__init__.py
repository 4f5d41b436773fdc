"""The record of a run: local files first, an MLflow store as a copy that may fail."""
