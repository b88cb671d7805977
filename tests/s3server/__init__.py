"""A real S3 server for tests and for the demo: versitygw over a plain folder."""

from __future__ import annotations

from tests.s3server.gateway import S3Request, VersityGateway, ensure_versitygw

__all__ = ["S3Request", "VersityGateway", "ensure_versitygw"]
