"""Files that are whole and checked: atomic writes, arrays, manifests, tables, locks."""
