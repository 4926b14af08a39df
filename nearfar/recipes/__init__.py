"""The small real experiment of each method: one file a method, with a function `experiment(data)`."""
