"""Class D: epochs are opened and closed, and a short-lived process releases each that was whole, with noise."""
