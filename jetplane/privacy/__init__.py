"""What the privacy policy promises, as code: how processes are kept from leaking, and what is held where."""
