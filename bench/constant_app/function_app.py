"""A function app that does nothing: it shows the cost of a request on the host alone."""

import azure.functions as func

app = func.FunctionApp()


@app.function_name("Constant")
@app.route(route="constant/{*path}", methods=["POST"], auth_level=func.AuthLevel.FUNCTION)
async def constant(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse(b'{"Status":"constant"}', status_code=202, mimetype="application/json")
