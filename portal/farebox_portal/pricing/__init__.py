"""Pure: billing periods (and, later, money). Standard library only; nothing here reads a clock or a database."""
