"""Kernel-offloaded data-plane controller for privacy-minded WireGuard exit nodes."""

__version__ = "0.1.0"
