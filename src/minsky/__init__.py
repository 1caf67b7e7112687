"""Mechanism of the toolkit: images, host, virtual cluster, data staging, reports."""
