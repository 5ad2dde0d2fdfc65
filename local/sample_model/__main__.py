from local.sample_model.service import service

service.run()
