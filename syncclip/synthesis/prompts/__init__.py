"""Prompts: a class name and the number of an image come in, the sentence that it is generated from goes out."""
