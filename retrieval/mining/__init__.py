"""Mining: what people type next, from a snapshot of the log (GQR section 3.3, step 1)."""
