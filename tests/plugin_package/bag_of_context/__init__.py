"""A plug-in of bigtrain: model=bag_of_context. Importing the package registers the model; no torch here."""

from bag_of_context.config import BagOfContextConfig

__all__ = ["BagOfContextConfig"]
