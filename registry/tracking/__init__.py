"""What is recorded, and where: runs, tags, metrics and model versions. MLflow only; knows no torch."""
