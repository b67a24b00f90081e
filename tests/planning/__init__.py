"""Tests of bigtrain/planning."""
