"""Datasets: public folder layouts and lists, turned into prepared training cases."""
