"""The admin API: HTTP and JSON over a Unix socket that only root may use. API.md beside this file describes it."""
