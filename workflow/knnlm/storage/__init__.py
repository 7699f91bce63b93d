"""Files that are whole and checked, locks."""
