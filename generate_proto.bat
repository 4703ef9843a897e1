@echo off
rem Regenerates generated\v1 from proto\v1. Needs the packages of requirements.txt.
cd /d "%~dp0"
python -m grpc_tools.protoc -Igenerated/v1=proto/v1 --python_out=. --pyi_out=. --grpc_python_out=. generated/v1/transcription.proto
if errorlevel 1 exit /b 1
