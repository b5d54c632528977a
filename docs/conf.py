"""How sphinx makes the manual of these pages: `make docs`."""

project = "coordkit"
author = "The coordkit authors"
extensions = ["myst_parser"]
html_theme = "alabaster"
