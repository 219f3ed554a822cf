"""Money is collected: by a payment provider, or by hand."""
