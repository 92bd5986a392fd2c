"""What pages are put together of."""
