"""One call each for people with a network of their own: images, a student, a smaller network, more classes."""
