"""One module for each verb that a person types; the only code that joins the other rooms."""
