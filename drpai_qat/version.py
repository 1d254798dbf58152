"""The version: setup.cfg, `drpai-qat --version` and deploy.json read it here."""

__version__ = "0.1.0"
