"""The output folder and deploy.json."""
