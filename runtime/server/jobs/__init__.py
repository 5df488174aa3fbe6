"""Edits that are accepted now and done later: kept in a database and in files, so that none is lost or done twice.

store     the table, and every change of a job's state as one transaction
worker    takes jobs where there is a place, and says how far they are
routes    the endpoints
"""
