"""Charges: spending without a reservation, one by one or as a batch of usage records."""
