"""Rows of tables, whatever their format; what the columns mean is the business of the data modules."""
