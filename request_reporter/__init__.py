"""Requests in flight at the model services, as these report them."""

from request_reporter.functions import blueprint

blueprints = (blueprint,)
