# A model service in Python with the SDK. From the top of the repository, for the service in examples/hello:
#   docker build -f images/service.Dockerfile -t hello .
# and for another folder with a service.py, and a requirements.txt if it needs packages:
#   docker build -f images/service.Dockerfile --build-arg SERVICE=examples/orientation -t orientation .
# docs/images.md says what to set, and what of this was run.
FROM python:3.12-slim-bookworm AS packages

RUN python -m venv /opt/service
WORKDIR /build
COPY images/requirements-tracing.txt images/sitecustomize.py ./
RUN /opt/service/bin/pip install --no-cache-dir --disable-pip-version-check -r requirements-tracing.txt \
    && cp sitecustomize.py /opt/service/lib/python3.12/site-packages/
ARG SERVICE=examples/hello
COPY ${SERVICE}/ service/
RUN if [ -f service/requirements.txt ]; then \
        /opt/service/bin/pip install --no-cache-dir --disable-pip-version-check -r service/requirements.txt; fi
COPY sdk/ sdk/
RUN /opt/service/bin/pip install --no-cache-dir --disable-pip-version-check "./sdk[otel,blob]"

FROM python:3.12-slim-bookworm

RUN useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin service
COPY --from=packages /opt/service /opt/service
WORKDIR /home/service/app
ARG SERVICE=examples/hello
COPY ${SERVICE}/ ./

ENV PATH=/opt/service/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SERVICE_HOST=0.0.0.0 \
    PORT=8080

USER 10001
EXPOSE 8080
# -S: without the packages of the service, which would load what sends telemetry.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-S", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/livez', timeout=4)"]
CMD ["python", "service.py"]
