"""Does a reader that trains with its codec lose almost nothing at 16 times fewer bytes?"""
