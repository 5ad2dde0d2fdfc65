# The function app, on Microsoft's base image. From the top of the repository:
#   docker build -f images/function-app.Dockerfile -t task-backbone .
# docs/images.md says what to set, and what of this was run.
FROM mcr.microsoft.com/azure-functions/python:4-python3.12

# The host may write below its home only, and nobody but root listens at port 80.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /home --shell /usr/sbin/nologin backbone \
    && mkdir -p /home/site/wwwroot /home/LogFiles /home/data \
    && chown -R backbone:backbone /home

# A layer of its own: packages change more rarely than the app.
COPY requirements.lock /tmp/requirements.lock
RUN pip install --no-cache-dir --root-user-action=ignore --disable-pip-version-check --require-hashes \
        -r /tmp/requirements.lock \
    && rm /tmp/requirements.lock

ENV AzureWebJobsScriptRoot=/home/site/wwwroot \
    AzureFunctionsJobHost__FileWatchingEnabled=false \
    AzureFunctionsJobHost__Logging__FileLoggingMode=never \
    AzureFunctionsJobHost__Logging__Console__IsEnabled=true \
    ASPNETCORE_URLS=http://+:8080 \
    PYTHON_ENABLE_OPENTELEMETRY=true

WORKDIR /home/site/wwwroot
COPY host.json function_app.py ./
COPY cache_manager/ cache_manager/
COPY backend_webhook/ backend_webhook/
COPY request_reporter/ request_reporter/
COPY operator_console/ operator_console/
COPY task_logger/ task_logger/
COPY shared/ shared/

USER 10001
EXPOSE 8080
# Any answer is a sign of life: health says 503 while Redis is away, and a new container would not bring it back.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8080, timeout=4); c.request('HEAD', '/api/v1/health'); c.getresponse()"]
# Not the script of the base image, which adds certificates as root.
CMD ["/azure-functions-host/Microsoft.Azure.WebJobs.Script.WebHost"]
