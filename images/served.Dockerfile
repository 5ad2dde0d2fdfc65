# A server of models that knows nothing of tasks, and the sidecar before it, in one container. From the top of the
# repository, for the server in examples/sidecar:
#   docker build -f images/served.Dockerfile -t tides .
# docs/images.md says what to set, and what of this was run.
FROM python:3.12-slim-bookworm AS packages

RUN python -m venv /opt/service
WORKDIR /build
COPY images/requirements-tracing.txt images/sitecustomize.py ./
RUN /opt/service/bin/pip install --no-cache-dir --disable-pip-version-check -r requirements-tracing.txt \
    && cp sitecustomize.py /opt/service/lib/python3.12/site-packages/
ARG SERVICE=examples/sidecar
COPY ${SERVICE}/requirements.txt service/
RUN /opt/service/bin/pip install --no-cache-dir --disable-pip-version-check -r service/requirements.txt
COPY sdk/ sdk/
RUN /opt/service/bin/pip install --no-cache-dir --disable-pip-version-check "./sdk[otel]"

FROM python:3.12-slim-bookworm

RUN useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin service
COPY --from=packages /opt/service /opt/service
COPY images/served.py /opt/service/served.py
WORKDIR /home/service/app
ARG SERVICE=examples/sidecar
COPY ${SERVICE}/ ./

ENV PATH=/opt/service/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SERVICE_HOST=0.0.0.0 \
    PORT=8080 \
    SIDECAR="--upstream http://127.0.0.1:8000 --slots 2"

USER 10001
EXPOSE 8080
# -S: without the packages of the service, which would load what sends telemetry.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-S", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/livez', timeout=4)"]
ENTRYPOINT ["python", "/opt/service/served.py"]
CMD ["gunicorn", "--bind", "127.0.0.1:8000", "--workers", "2", "server:app"]
