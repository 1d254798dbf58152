"""The version: setup.cfg, `drpai-qat --version` and deploy.json read it here."""

VERSION = "0.1.0"
