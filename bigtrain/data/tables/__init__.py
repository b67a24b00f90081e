"""Rows of tables, whatever their format; the data modules say what the columns mean."""
