"""Is a passage found better when its memory has seen the whole document?"""
