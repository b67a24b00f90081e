"""The audit of a data set: does what a model is tested on stand in what it learns from, and is the data sound?"""
